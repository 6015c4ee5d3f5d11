package dev.mobilebundle.demo

import android.app.Activity
import android.app.LocaleManager
import android.content.Context
import android.content.res.Configuration
import android.os.Build
import android.os.LocaleList
import dev.mobilebundle.demo.ui.Guarded
import java.util.Locale

/** The language of the app where it is not the phone's. From Android 13 on the system keeps it; before, the app does. */
object Language {
    /** Tags; empty: the phone's. */
    val CHOICES = listOf("", "en", "sw")

    fun current(context: Context): String =
        if (bySystem()) systemChoice(context) else chosen(context).takeIf { it in CHOICES }.orEmpty()

    /** The screen is made anew in the language, by the system or here. */
    fun choose(activity: Activity, tag: String) {
        if (bySystem()) return chooseInSystem(activity, tag)
        preferences(activity).edit().putString(KEY, tag).apply()
        activity.recreate()
    }

    /** What an activity is to be attached to. */
    fun wrap(base: Context): Context {
        if (bySystem()) return base
        val tag = chosen(base).takeIf { it.isNotEmpty() } ?: return base
        val locale = Locale.forLanguageTag(tag)
        return base.createConfigurationContext(Configuration(base.resources.configuration).apply { setLocale(locale) })
    }

    private fun bySystem() = Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU

    private fun chosen(context: Context) = preferences(context).getString(KEY, "").orEmpty()

    private fun preferences(context: Context) = context.getSharedPreferences("settings", Context.MODE_PRIVATE)

    @Guarded
    private fun systemChoice(context: Context): String {
        val chosen = context.getSystemService(LocaleManager::class.java).applicationLocales
        return if (chosen.isEmpty) "" else chosen[0].language.takeIf { it in CHOICES }.orEmpty()
    }

    @Guarded
    private fun chooseInSystem(activity: Activity, tag: String) {
        val wanted = if (tag.isEmpty()) LocaleList.getEmptyLocaleList() else LocaleList.forLanguageTags(tag)
        activity.getSystemService(LocaleManager::class.java).applicationLocales = wanted
    }

    private const val KEY = "language"
}
