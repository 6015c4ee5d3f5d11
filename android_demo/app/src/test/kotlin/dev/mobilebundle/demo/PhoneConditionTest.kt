package dev.mobilebundle.demo

import android.Manifest
import android.app.ForegroundServiceStartNotAllowedException
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.BatteryManager
import android.os.PowerManager
import android.view.View
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.Shadows.shadowOf

/** What the user is told of the phone while an answer is written, and what Android is told of the answer. */
class PhoneConditionTest : AppTest() {
    private fun battery(level: Int, plugged: Int = 0) {
        @Suppress("DEPRECATION") // only the system may send it, and here the test is the system
        app.sendStickyBroadcast(
            Intent(Intent.ACTION_BATTERY_CHANGED)
                .putExtra(BatteryManager.EXTRA_LEVEL, level)
                .putExtra(BatteryManager.EXTRA_SCALE, 100)
                .putExtra(BatteryManager.EXTRA_PLUGGED, plugged),
        )
        idle()
    }

    private fun answering(work: (dev.mobilebundle.demo.ui.ChatActivity) -> Unit) {
        slowPhone()
        app.settings.maxNewTokens = 400
        chat(imported(Inputs.chatModel)).use { controller ->
            assertTrue(app.chat.send("Tell me a long story"))
            waitFor("some of it") { app.chat.turns.last().text.length > 20 }
            work(controller.get())
            app.chat.stop()
            idle()
        }
    }

    @Test
    fun aBatteryThatIsNearlyEmptyIsTold() {
        battery(80)
        answering { screen ->
            assertFalse(screen.isShown(R.id.notice))
            battery(9)
            assertEquals(app.getString(R.string.notice_battery), screen.text(R.id.notice))
            battery(9, plugged = BatteryManager.BATTERY_PLUGGED_USB)
            assertFalse(screen.isShown(R.id.notice))
            battery(9)
        }
        assertEquals("only while it matters", Trouble.LOW_BATTERY, app.condition.trouble)
    }

    @Test
    fun heatIsTold() {
        answering { screen ->
            val power = shadowOf(app.getSystemService(PowerManager::class.java))
            power.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_MODERATE)
            idle()
            assertFalse(screen.isShown(R.id.notice))
            power.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_SEVERE)
            idle()
            assertEquals(app.getString(R.string.notice_hot), screen.text(R.id.notice))
            assertEquals(View.VISIBLE, screen.findViewById<View>(R.id.status_row).visibility)
        }
    }

    @Test
    fun withItsPermissionAServiceSaysThatAnAnswerGoesOn() {
        shadowOf(app).grantPermissions(Manifest.permission.FOREGROUND_SERVICE)
        answering {
            assertEquals(WorkService::class.java.name, shadowOf(app).nextStartedService?.component?.className)
            assertNull("not ended yet", shadowOf(app).nextStoppedService)
            val service = Robolectric.buildService(WorkService::class.java).create().startCommand(0, 1).get()
            assertNotNull(shadowOf(service).lastForegroundNotification)
        }
        assertEquals(WorkService::class.java.name, shadowOf(app).nextStoppedService?.component?.className)
    }

    @Test
    fun aServiceWhoseHoursAreUsedUpEndsAndTheAnswerGoesOn() {
        shadowOf(app).grantPermissions(Manifest.permission.FOREGROUND_SERVICE)
        answering {
            val controller = Robolectric.buildService(WorkService::class.java).create().startCommand(0, 1)
            // As Android 15 does, whose function it is.
            WorkService::class.java.getMethod("onTimeout", Int::class.java, Int::class.java)
                .invoke(controller.get(), 1, ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)
            assertTrue(shadowOf(controller.get()).isStoppedBySelf)
            assertTrue(shadowOf(controller.get()).isForegroundStopped)
            assertTrue(app.chat.answering)
            val length = app.chat.turns.last().text.length
            waitFor("more of it") { app.chat.turns.last().text.length > length }
        }
    }

    @Test
    fun aServiceThatMayNotBeginEnds() {
        val controller = Robolectric.buildService(WorkService::class.java).create()
        shadowOf(controller.get()).setThrowInStartForeground(ForegroundServiceStartNotAllowedException("Time limit already exhausted"))
        controller.startCommand(0, 1)
        assertTrue(shadowOf(controller.get()).isStoppedBySelf)
    }

    @Test
    fun withoutItThereIsNone() = answering { assertNull(shadowOf(app).nextStartedService) }
}
